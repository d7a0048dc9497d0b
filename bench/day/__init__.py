"""A host's day: live calls at the pace of speech, kept by callstate and by what one would run instead.

`run` starts the servers and worker processes of each side and measures them in turns; `worker` is such a process,
`pacing` its clock, and `keepers` what it calls on each side.
"""

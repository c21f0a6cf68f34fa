"""The kernel of an ipcluster engine: the process that runs the user's code.

The engine owns the network: registration, heartbeats, signatures, the queue of requests, busy and idle. This package
takes one request after the other from a socket pair, the link, runs it, and hands outputs and the reply back.

    main        start-up: which mode, one kernel (spawn) or many (fork server)
    forkserver  imports everything once, then forks a kernel per request
    link        framing; the only module that reads or writes the link
    messages    requests as the kernel sees them; JSON as the client expects it
    streams     sys.stdout and sys.stderr
    shared      payloads that several kernels map
    signals     when SIGINT becomes KeyboardInterrupt, and how SIGTERM ends a kernel
    process     what a kernel process sets up for itself: group, limits, environment, descriptors
    kernel      mode "ipyparallel" or "ipython": ipykernel's kernel class on the link
    session     what stands in for ipykernel's Session and sockets
    apps        the application objects that user code looks for: IPKernelApp, IPEngine, bind_kernel
    serial      the request loop of the modes without ipykernel
    shell       mode "ipython" without ipykernel: IPython's InteractiveShell
    plain       mode "plain": a bare CPython
    config      traitlets configuration from the engine's settings

The best mode that the Python has the packages for is taken; READY's `missing` says what a better one lacked.
`bootstrap.py` is no module of the package: it is what the engine hands to `python -c` to install the others.

The link
--------
message = u32 tag, u32 n, n x u64 frame lengths, then the frames; little endian, both ways. A kernel that was told of
shared memory may leave large frames out: the highest bit of their lengths is set, and descriptors of sealed memory that
holds them come along with the message's first byte, in order. The end of the link is the end of the engine: a kernel that
reads it leaves at once.

Engine to kernel:
    1 CONFIGURE  [json]  first message, see `process.Settings`
    2 APPLY      [header, metadata, buffer ...]  an apply_request
    3 REQUEST    [b"shell" | b"control", header, parent_header, metadata, content, buffer ...]  any other request
    4 EXIT       []  end in order
    5 MAPPED     [json, then as APPLY]  {places: [[frame, path, length]]}: of the APPLY's frames, counted from 0, these are
                 empty and are to be mapped from the files at `path`; only to a kernel whose READY had `maps`
Kernel to engine:
    101 READY    [json]  {pid, python, executable, ipython, ipykernel, ipyparallel, mode, missing: [text], maps: bool}
    102 FAILED   [json]  {ename, evalue, traceback, hint}; the kernel ends after it
    103 REPLY    [msg_id, content, metadata, buffer ...]  metadata may be empty
    104 IOPUB    [msg_type, parent, metadata, content, buffer ...]
    105 STREAM   [b"stdout" | b"stderr", parent, text]
    106 DONE     [msg_id]  the request is over, after its reply and outputs
    107 LOG      [level, text]  for the engine's log; level as in `logging`: b"WARNING" ...

`parent` is empty for the shell request being handled now, that is the last APPLY, or REQUEST on shell that is no
comm_*, whose DONE has not been sent; otherwise it is the parent's header as JSON, `{}` for none. Outputs of control
and comm requests, and late outputs of threads, always name their parent.

Shell requests come one at a time: the next after DONE. comm_* and control requests may come at any time and are
handled when the event loop gets to them, which is never while synchronous user code runs. Every request but comm_*
has exactly one REPLY, and each has exactly one DONE.

Fork server's control link, same framing:
    201 PRELOAD  [json]  {preload: [module], config: {...}}, first message
    202 FORK     [json]  {rank, env, cpus, open_files}, with three descriptors: link, stdout, stderr
    203 SIGNAL   [json]  {pid, sig, group}
    301 WARM     [json]  as READY, with threads: [name] that were there before any fork; the imports are done
    302 FORKED   [json]  {rank, pid}
    303 EXITED   [json]  {rank, pid, status: {"code": n} | {"signal": n}, maxrss_kb}
    304 ERROR    [json]  {rank | null, ename, evalue, traceback, hint}
"""

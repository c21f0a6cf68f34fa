"""IPEngine.instance() of a kernel, for ipyparallel.bind_kernel."""

import zmq
from ipykernel.iostream import IOPubThread
from ipyparallel.engine.app import IPEngine


class EngineApp(IPEngine):
    """Takes the place of ipyparallel's application, without its network."""

    def adopt(self, settings):
        self.id = settings.engine_id
        self.ident = settings.engine_uuid
        self.profile_dir = self.kernel_app.profile_dir

    def bind_kernel(self, **kwargs):
        """Listen as an ordinary kernel, so that a console or a notebook can attach to the engine's namespace."""
        if self._kernel_bound:
            return
        self.shell_socket = self._socket(zmq.ROUTER)
        self.control_socket = self._socket(zmq.ROUTER)
        self.iopub_socket = self._socket(zmq.PUB)
        super().bind_kernel(**kwargs)
        iopub = IOPubThread(self.iopub_socket)
        iopub.start()
        self.kernel.attach_frontends(self.shell_socket, self.control_socket, iopub)

    def _socket(self, kind):
        socket = self.context.socket(kind)
        socket.linger = 0
        return socket

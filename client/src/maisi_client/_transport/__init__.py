"""gRPC to one or several servers: connections, streams, retries and shared memory."""

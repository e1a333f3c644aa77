"""gRPC to one or several servers: connections, streams, retries, shared memory."""

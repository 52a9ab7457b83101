"""The queues that ship with jobbus; each module is one backend, loaded only when it is chosen."""

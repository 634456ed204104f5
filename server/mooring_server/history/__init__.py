"""Every turn, kept: in SQLite beside the server, or in PostgreSQL for many of them.

    location   where it is kept: what --history says, and how that reaches the API processes
    schema     the tables, and how older ones become newer
    store      one store in portable SQL: append, list, look up, erase, retire; sqlite and postgres say how they differ
    writer     one thread per API process: a bounded queue in, batches out; never on the event loop
    branches   turns of a session -> the branches of its conversation
    live       turns as they end, to whoever listens
    routes     GET and DELETE /v1/mooring/sessions/..., GET /v1/mooring/turns/stream
    export     `mooring history export`

What an answer can expect of it: nothing. A store that is away, full or slow fails no answer and holds none up; rows
wait in the queue, and are dropped and counted when that is full. What a store has acknowledged
(mooring_history_rows_total) survives the end of the process, of the database server and of the machine's power.
"""

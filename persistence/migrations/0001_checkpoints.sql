-- Who may write checkpoints of a shard. The row of a shard stays for ever: its fence must not start
-- again from 1. An empty holder has given the lease up.
CREATE TABLE leases (
    mesh       bytea       NOT NULL CHECK (octet_length(mesh) = 16),
    shard      integer     NOT NULL CHECK (shard >= 0),
    holder     text        NOT NULL CHECK (length(holder) <= 200),
    fence      bigint      NOT NULL CHECK (fence > 0),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (mesh, shard)
);

COMMENT ON COLUMN leases.fence IS 'grows with every change of holder; whoever writes with an older one is refused';

-- Whole shards, sealed: nobody without the mesh key can read them, nobody at all can alter them
-- unnoticed. One verified row for each shard; an unverified one is on its way, or was left by a
-- writer that died, and goes with the next that is verified.
CREATE TABLE checkpoints (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mesh       bytea       NOT NULL,
    shard      integer     NOT NULL,
    fence      bigint      NOT NULL CHECK (fence > 0),
    replica    text        NOT NULL,
    frontier   bytea       NOT NULL,
    log_offset bigint      NOT NULL CHECK (log_offset >= 0),
    digest     bytea       NOT NULL,
    size       integer     NOT NULL CHECK (size > 0 AND size = octet_length(data)),
    written_at timestamptz NOT NULL DEFAULT now(),
    verified   boolean     NOT NULL DEFAULT false,
    data       bytea       NOT NULL,
    FOREIGN KEY (mesh, shard) REFERENCES leases (mesh, shard)
);

COMMENT ON COLUMN checkpoints.frontier IS 'msgpack: session, seq, session, seq ... in order of session';
COMMENT ON COLUMN checkpoints.log_offset IS 'the checkpoint contains every record of the log below this offset';
COMMENT ON COLUMN checkpoints.verified IS 'loaded back and proven after it was written';

-- Compressed and sealed already: compressing it again would only cost time.
ALTER TABLE checkpoints ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE INDEX checkpoints_by_age ON checkpoints (mesh, shard, fence, id);

-- Scenarios by content hash. `body` is the canonical JSON; every other column is derived from it, for querying, but for
-- `split`, which says whether training may see the row.
CREATE TABLE scenarios (
    id TEXT PRIMARY KEY,
    family TEXT NOT NULL,
    skin TEXT NOT NULL,
    split TEXT NOT NULL CHECK (split IN ('train', 'seed', 'range', 'skin')),
    seed INTEGER NOT NULL,
    theory TEXT NOT NULL,
    interdependence TEXT NOT NULL,
    relation TEXT NOT NULL,
    resource TEXT NOT NULL,
    context TEXT NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX scenarios_by_split ON scenarios (split, family, skin);

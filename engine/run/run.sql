-- What a run did. A game is one transaction: all of its rows are here or none.
CREATE TABLE scenarios (
    id TEXT PRIMARY KEY, -- content hash
    family TEXT NOT NULL,
    body BLOB NOT NULL -- canonical JSON, with the seed that it was first met under
) WITHOUT ROWID;

CREATE TABLE games (
    number INTEGER PRIMARY KEY,
    phase TEXT NOT NULL, -- 'train', or the label of an evaluation
    step INTEGER NOT NULL,
    id TEXT NOT NULL, -- the deal's
    scenario TEXT NOT NULL REFERENCES scenarios (id),
    seed TEXT NOT NULL, -- the scenario's own, under which it was met here
    sampled_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    error TEXT, -- why a void game came to no result
    UNIQUE (phase, step, id)
);

CREATE TABLE turns (
    game INTEGER NOT NULL REFERENCES games (number) ON DELETE CASCADE,
    turn INTEGER NOT NULL,
    seat TEXT NOT NULL,
    text TEXT NOT NULL,
    complete INTEGER NOT NULL,
    PRIMARY KEY (game, turn)
) WITHOUT ROWID;

CREATE TABLE outcomes (
    game INTEGER NOT NULL REFERENCES games (number) ON DELETE CASCADE,
    place INTEGER NOT NULL, -- of the seat at the table, from 0
    seat TEXT NOT NULL,
    player TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reward INTEGER,
    score REAL NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL, -- JSON: [{"turn", "start", "end"}, ...]
    PRIMARY KEY (game, place)
) WITHOUT ROWID;

CREATE TABLE metrics (
    step INTEGER NOT NULL,
    key TEXT NOT NULL,
    value REAL, -- NULL where it was not a number
    PRIMARY KEY (step, key)
) WITHOUT ROWID;

CREATE TABLE trajectories (
    game INTEGER NOT NULL REFERENCES games (number) ON DELETE CASCADE,
    body BLOB NOT NULL -- MessagePack; kept until a checkpoint holds what was learned from it
);

CREATE INDEX trajectories_game ON trajectories (game);

CREATE TABLE judgements (
    number INTEGER PRIMARY KEY,
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    contest TEXT NOT NULL, -- the group of entries that met
    judge TEXT NOT NULL,
    criterion TEXT NOT NULL,
    first TEXT NOT NULL, -- the games whose entries were read, in this order
    second TEXT NOT NULL,
    preference TEXT, -- 'first', 'second' or 'tie'; NULL where there was no verdict
    control TEXT NOT NULL -- why a pair was judged that scores nobody, else ''
);

CREATE INDEX judgements_step ON judgements (phase, step);

CREATE TABLE calls (
    number INTEGER PRIMARY KEY,
    digest TEXT NOT NULL, -- of what was asked
    attempt INTEGER NOT NULL, -- 0 for the first
    model TEXT NOT NULL,
    purpose TEXT NOT NULL,
    game TEXT NOT NULL, -- the deal's id
    seat TEXT NOT NULL,
    result TEXT NOT NULL,
    seconds REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL NOT NULL, -- in US dollars
    estimated INTEGER NOT NULL, -- whether the provider reported no usage, and cost is the most that it can be
    hedge INTEGER NOT NULL,
    reply TEXT, -- JSON, where this attempt's answer was taken
    error TEXT NOT NULL
);

CREATE INDEX calls_digest ON calls (digest) WHERE reply IS NOT NULL;

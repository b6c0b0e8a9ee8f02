-- An item is the URL of an image or a page, or the sha256 of an image.
CREATE TABLE takedowns (
    item   text PRIMARY KEY CHECK (length(item) BETWEEN 1 AND 2000),
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 2000),
    at     timestamptz NOT NULL DEFAULT now()
);

-- What it reached when it was marked. ref: sha256 of an image, key of an artifact.
CREATE TABLE takedown_finds (
    item text NOT NULL REFERENCES takedowns (item),
    kind text NOT NULL CHECK (kind IN
         ('image', 'raw', 'clean', 'dataset', 'lora', 'evaluation', 'release')),
    ref  text NOT NULL,
    uri  text,
    at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (item, kind, ref),
    CHECK ((kind = 'image') = (uri IS NULL))
);
CREATE INDEX takedown_finds_by_ref ON takedown_finds (kind, ref);

-- Models by their LoRA's or their dataset's key: an artifact copied to another store keeps it.
CREATE VIEW models_taken_down AS
SELECT m.name, m.version, min(f.item) AS item
FROM models AS m
JOIN takedown_finds AS f
  ON (f.kind = 'lora' AND f.ref = substring(m.lora FROM '/lora/([0-9a-z]+)/manifest\.json'))
  OR (f.kind = 'dataset'
      AND f.ref = substring(m.dataset FROM '/dataset/([0-9a-z]+)/manifest\.json'))
GROUP BY m.name, m.version;

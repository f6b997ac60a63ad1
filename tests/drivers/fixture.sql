CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10,2), tags text[], at timestamptz);
INSERT INTO items VALUES
    (1, 'anvil', 12.50, '{heavy,"made of iron"}', '2020-02-03 04:05:06Z'),
    (2, NULL, NULL, NULL, NULL),
    (3, 'ünïcode ✓', 0.01, '{}', '1999-12-31 23:59:59.123456Z');
CREATE TABLE many AS SELECT n AS id, repeat(md5(n::text), 1 + n % 40) AS filler FROM generate_series(1, 5000) n;
CREATE TABLE work (id int PRIMARY KEY, note text);
CREATE FUNCTION shout(what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'heard %', what;
    RETURN upper(what);
END $$;
CREATE VIEW priced AS SELECT id, name FROM items WHERE price IS NOT NULL;
CREATE INDEX ON many (id);

CREATE SCHEMA closed;
CREATE TABLE closed.vault (id int PRIMARY KEY, note text);
CREATE TABLE work (id int PRIMARY KEY, note text);
CREATE TABLE numbered (id serial PRIMARY KEY, note text);
CREATE TABLE flips (id int PRIMARY KEY, note text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION closed.touch(int) RETURNS int LANGUAGE sql AS 'INSERT INTO closed.vault VALUES ($1, ''touched'') RETURNING id';
CREATE PROCEDURE closed.proceed() LANGUAGE plpgsql AS
    'BEGIN INSERT INTO closed.vault VALUES (1, ''one''); COMMIT; INSERT INTO closed.vault VALUES (2, ''two''); END';
GRANT ALL ON SCHEMA public TO app;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;

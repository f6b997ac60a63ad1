'use strict'
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const { from, to } = require('pg-copy-streams')
const { once } = require('events')
const { pipeline } = require('stream/promises')
const { Readable } = require('stream')

const say = (...what) => console.log(JSON.stringify(what))
const TYPES = `SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 1.5::float4 AS d, 2.5::float8 AS e, 123.456::numeric AS f,
  true AS g, 'x'::text AS h, '\\x00ff'::bytea AS i, '2020-02-03 04:05:06+00'::timestamptz AS j, '1 day 02:03:04'::interval AS k,
  '{"a": [1, null]}'::jsonb AS l, ARRAY[1, 2, NULL] AS m, ARRAY['a', 'b,c'] AS n, NULL::int AS o`

async function main() {
  const client = new Client({ ssl: false })
  await client.connect()
  for (const binary of [false, true]) {
    const result = await client.query({ text: TYPES, values: [], binary })
    say('types', binary, result.rows, result.fields.map((field) => [field.name, field.dataTypeID, field.format]))
  }
  say('nulls', (await client.query('SELECT id, name, price, tags, at FROM items ORDER BY id')).rows)
  say('arrays', (await client.query('SELECT $1::int[] AS a, $2::text[] AS b', [[1, 2], ['x,y', null]])).rows)
  await client.query('BEGIN')
  await client.query('INSERT INTO work VALUES ($1, $2)', [1, 'gone'])
  await client.query('SAVEPOINT here')
  await client.query('INSERT INTO work VALUES (1)').catch((error) => say('savepoint', error.code, error.detail, error.constraint))
  await client.query('ROLLBACK TO here')
  say('transaction', (await client.query('SELECT count(*) FROM work')).rows)
  await client.query('ROLLBACK')
  for (const text of ['SELECT * FROM nothing', 'SELECT 1/0', 'SELEC']) {
    await client.query(text).catch((error) => say('error', error.code, error.message, error.position))
  }
  for (const id of [1, 2, 3, 1]) {
    say('prepared', (await client.query({ name: 'by id', text: 'SELECT name FROM items WHERE id = $1', values: [id] })).rows)
  }
  const cursor = client.query(new Cursor('SELECT * FROM many ORDER BY id'))
  const portions = []
  for (let rows; (rows = await cursor.read(1100)).length > 0; ) portions.push(rows.length)
  await cursor.close()
  say('portion', portions)
  const into = client.query(from('COPY work FROM STDIN'))
  await pipeline(Readable.from(Array.from({ length: 3000 }, (_, n) => `${n}\tnote ${n}\n`)), into)
  const out = client.query(to('COPY work TO STDOUT'))
  let size = 0
  for await (const chunk of out) size += chunk.length
  say('copy', into.rowCount, out.rowCount, size)
  const notice = once(client, 'notice')
  say('notice', (await client.query("SELECT shout('node')")).rows, (await notice)[0].message)
  const news = once(client, 'notification')
  await client.query('LISTEN news')
  await client.query("SELECT pg_notify('news', 'node')")
  const [{ channel, payload }] = await news
  say('notify', channel, payload)
  const queries = Array.from({ length: 200 }, (_, n) => client.query('SELECT $1::int AS n', [n]))
  say('pipeline', (await Promise.all(queries)).reduce((sum, result) => sum + result.rows[0].n, 0))
  const multi = await client.query('SELECT 1 AS a; SELECT 2 AS b; TRUNCATE work')
  say('pipeline', multi.map((result) => [result.command, result.rows]))
  const pool = new Pool({ ssl: false, max: 4 })
  const pids = await Promise.all(Array.from({ length: 8 }, () => pool.query('SELECT pg_backend_pid() AS pid')))
  say('pool', pids.every((result) => result.rows[0].pid > 0))
  const victim = (await client.query('SELECT pg_backend_pid() AS pid')).rows[0].pid
  setTimeout(() => pool.query('SELECT pg_cancel_backend($1)', [victim]), 300)
  await client.query('SELECT pg_sleep(60)').catch((error) => say('cancel', error.code))
  await pool.end()
  await client.end()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})

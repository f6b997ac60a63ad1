'use strict'
const { Client } = require('pg')
const Cursor = require('pg-cursor')

const DENIED = "INSERT INTO closed.vault VALUES ($1, 'in')"
const say = (...what) => console.log(JSON.stringify(what))
const work = (client, id) => client.query('INSERT INTO work VALUES ($1, $2)', [id, 'x'])
const fails = (query) => query.then(() => say('done'), (error) => say('error', error.code))

const situations = {
  // Everything is written before any answer has come.
  async queue(client) {
    await Promise.all([work(client, 10), fails(client.query(DENIED, [1])), work(client, 11)])
  },
  async transaction(client) {
    await client.query('BEGIN')
    await work(client, 10)
    await fails(client.query({ name: 'denied', text: DENIED, values: [1] }))
    await fails(work(client, 11))
    say((await client.query('COMMIT')).command)
    await fails(client.query({ name: 'denied', text: DENIED, values: [1] }))
  },
  async cursor(client) {
    await client.query('BEGIN')
    const cursor = client.query(new Cursor('SELECT id FROM work ORDER BY id'))
    say(await cursor.read(2))
    await cursor.close()
    await fails(client.query(DENIED, [1]))
    await client.query('ROLLBACK')
  },
}

async function main() {
  const client = new Client({ ssl: false })
  await client.connect()
  await situations[process.argv[2]](client)
  await client.end()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})

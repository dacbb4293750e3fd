'use strict'
// Makes a store of corestore 6 with several drives, a Hyperbee and a plain core, and prints {drives: [KEY...]}.

const Hyperbee = require('hyperbee')

const { hex, leave, openDrive, openStore, run, say, usage } = require('./peer')

run(async options => {
  if (!options.storage) usage('make-store.js --storage DIR [--drives N]')
  const store = openStore(options.storage, 'several', { legacy10: true })
  const drives = []
  for (let n = 0; n < Number(options.drives); n++) {
    const drive = await openDrive(store.namespace(`drive ${n}`), null, { legacy10: true })
    await drive.put('/number.txt', Buffer.from(`drive ${n}\n`))
    drives.push(hex(drive.key))
  }
  const bee = new Hyperbee(store.get({ name: 'bee' }), { keyEncoding: 'utf-8', valueEncoding: 'utf-8' })
  await bee.put('a', 'no drive')
  await store.get({ name: 'plain' }).append(Buffer.from('no index'))
  await store.close()
  say({ drives })
  await leave()
}, { storage: { type: 'string' }, drives: { type: 'string', default: '2' } })

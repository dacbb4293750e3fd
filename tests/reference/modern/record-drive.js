'use strict'
// Writes tests/vectors/drive-small-11, a store of Corestore 6 with a drive of Hyperdrive 11, and prints
// drive-small-11.expected.json: what a filesystem shows of three of its versions. The names and contents are those of
// drive-small, without what this format does not have (empty directories, extended attributes, nested drives), so that one
// test reads both.

const crypto = require('crypto')
const fs = require('fs')
const path = require('path')

const { hex, leave, openDrive, openStore, run, seeded, usage } = require('./peer')
const { noise } = require('./shapes')

const SEED = 'drive-small-11'
/** Where the names lie that are listed. */
const FOLDERS = ['/', '/dir', '/dir/nested', '/ünï']

run(async options => {
  if (!options.storage) usage('record-drive.js --storage DIR')
  const store = openStore(options.storage, SEED, { legacy10: true })
  const drive = await openDrive(store, null, { legacy10: true })
  const versions = []

  await drive.put('/hello.txt', Buffer.from('hello world'))
  await drive.put('/empty', Buffer.alloc(0))
  for (let n = 0; n < 8; n++) await drive.put(`/dir/f${n}.txt`, Buffer.from(`file ${n}\n`))
  await drive.put('/dir/nested/a.txt', Buffer.from('a'))
  await drive.put('/dir/nested/b.txt', Buffer.alloc(100, 'b'))
  await drive.put('/big.bin', noise('big.bin', 204800), { executable: true })
  await drive.put('/ünï/ćødé ファイル.txt', Buffer.from('unicode'))
  versions.push(await recorded(drive, 'files'))

  await drive.symlink('/abs-link', '/hello.txt')
  await drive.symlink('/dir/rel-link', 'nested/a.txt')
  versions.push(await recorded(drive, 'links'))

  await drive.del('/dir/f3.txt')
  await drive.put('/hello.txt', Buffer.from('hello again, overwritten'))
  await drive.put('/dir/nested/b.txt', Buffer.alloc(10, 'b'))
  await drive.put('/dir/f0.txt', Buffer.from('file 0\n'), { metadata: { mtime: 1600000000123 } })
  await drive.put('/dir/f2.txt', Buffer.from('file 2\n'), { metadata: { mtime: '2020-09-13T12:26:40.456Z' } })
  for (let n = 4; n < 8; n++) await drive.put(`/dir/f${n}.txt`, Buffer.from(`file ${n}\n`))
  await drive.put('/gone/again', Buffer.from('again\n'))
  await drive.del('/gone/again')
  versions.push(await recorded(drive, 'a deletion, overwritten files, metadata with times, a directory that has gone'))

  const answer = {
    about: 'drive-small-11/ is a store of corestore 6.18.4 written by hyperdrive 11.13.4 on hypercore 10.38.2',
    cores: [drive.core, (await drive.getBlobs()).core].map(core => ({ key: hex(core.key), length: core.length })),
    versions
  }
  await store.close()
  // Corestore 6 was given its key and made no file of it; that of the `drives` program makes one.
  fs.writeFileSync(path.join(options.storage, 'primary-key'), seeded('store', SEED))
  process.stdout.write(JSON.stringify(answer, null, 1) + '\n')
  await leave()
}, { storage: { type: 'string' } })

/** A version as a filesystem shows it (docs/semantics.md, sentences 125 and 126). */
async function recorded (drive, what) {
  const entries = {}
  for await (const { key, seq, value } of drive.list('/')) {
    const { executable, linkname, metadata } = value
    const time = metadata && metadata.mtime
    const entry = { mode: executable ? 0o100755 : 0o100644, size: 0, mtime: time ? new Date(time).getTime() : seq * 1000 }
    if (linkname) {
      Object.assign(entry, { mode: 0o120777, linkname })
    } else {
      const bytes = await drive.get(key)
      Object.assign(entry, { size: bytes.length, sha256: crypto.createHash('sha256').update(bytes).digest('hex') })
    }
    entries[key.slice(1)] = entry
  }
  const readdirOrder = {}
  for (const folder of FOLDERS) {
    readdirOrder[folder] = []
    for await (const name of drive.readdir(folder)) readdirOrder[folder].push(name)
  }
  return { what, version: drive.version, recursiveReaddir: Object.keys(entries), readdirOrder, entries }
}

'use strict'
// Prints tests/vectors/modern/oplog.json: the files of cores as Hypercore 10 leaves them, and what is in them.
// Each core is copied while it is open, as a killed program leaves it.

const fs = require('fs')
const os = require('os')
const path = require('path')

const Hypercore = require('./node_modules/corestore-6/node_modules/hypercore')
const crypto = require('hypercore-crypto')

const { run, hex, say, leave } = require('./peer')

const pair = seed => crypto.keyPair(Buffer.alloc(32, seed))
const block = n => Buffer.alloc(n * 7 % 40, n + 1)
const blocks = (from, to) => Array.from({ length: to - from }, (_, n) => block(from + n))

const cores = {
  // Some of it in the header, the rest in entries.
  async entries (open) {
    const core = await open({ keyPair: pair(1) })
    for (let n = 0; n < 5; n++) await core.append(block(n))
    await core.setUserData('corestore/name', Buffer.from('db'))
    await core.setUserData('other', Buffer.from('gone'))
    await core.setUserData('other', null)
    return core
  },
  // Both slots are written, and entries follow.
  async both (open) {
    const core = await open({ keyPair: pair(2), compat: true })
    await core.append(blocks(0, 9))
    await core.clear(3, 5)
    await core.core._mutex.lock()
    await core.core._flushOplog()
    core.core._mutex.unlock()
    await core.append(blocks(9, 12))
    await core.clear(10)
    return core
  },
  // Three headers, so that the first slot is the current one again.
  async thrice (open) {
    const core = await open({ keyPair: pair(3) })
    for (let n = 0; n < 3; n++) {
      await core.append(blocks(n * 4, n * 4 + 4))
      await core.core._mutex.lock()
      await core.core._flushOplog()
      core.core._mutex.unlock()
    }
    return core
  },
  // Truncated, and appended to again.
  async truncated (open) {
    const core = await open({ keyPair: pair(4) })
    await core.append(blocks(0, 10))
    await core.truncate(6)
    await core.append(blocks(20, 23))
    return core
  },
  async empty (open) {
    return open({ keyPair: pair(5) })
  },
  // So much user data that the header has a file of its own, written twice.
  async external (open) {
    const core = await open({ keyPair: pair(10) })
    await core.setUserData('long', Buffer.alloc(5000, 'abc'))
    await core.append(blocks(0, 3))
    await core.core._mutex.lock()
    await core.core._flushOplog()
    core.core._mutex.unlock()
    await core.append(blocks(3, 4))
    return core
  }
}

run(async () => {
  const vectors = []
  for (const name of Object.keys(cores)) {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hypermount-oplog-'))
    const core = await cores[name](async options => {
      const core = new Hypercore(directory, options)
      await core.ready()
      return core
    })
    const files = {}
    for (const file of fs.readdirSync(directory).sort()) {
      const bytes = fs.readFileSync(path.join(directory, file))
      let end = bytes.length
      while (end > 0 && bytes[end - 1] === 0) end--
      files[file] = { length: bytes.length, bytes: hex(bytes.subarray(0, end)) }
    }
    const held = []
    for (let n = 0; n < core.length; n++) held.push((await core.has(n)) ? hex(await core.get(n)) : null)
    vectors.push({
      name, files, key: hex(core.key), length: core.length, fork: core.fork, byteLength: core.byteLength,
      userData: Object.fromEntries(core.core.header.userData.map(({ key, value }) => [key, value.toString()])), blocks: held
    })
    await core.close()
    fs.rmSync(directory, { recursive: true })
  }
  process.stdout.write(JSON.stringify({ cores: vectors }, null, 1) + '\n')
  await leave()
})

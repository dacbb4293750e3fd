'use strict'
// Opens every core of Hypercore 10 below DIR/cores with the reference: prints
// {cores: [{discoveryKey, key, length, fork, byteLength, held, sha256 of what is held, damaged}]}, where `damaged` is
// what an audit corrected. It may write into DIR: give it a copy. With --append it first appends a block to every core, whose
// key pair must be there.

const crypto = require('crypto')
const fs = require('fs')
const path = require('path')

// Corestore 6 brings its own.
const Hypercore = require('./node_modules/corestore-6/node_modules/hypercore')

const { hex, leave, run, say, usage } = require('./peer')

run(async options => {
  if (!options.storage) usage('open-core.js --storage DIR [--append TEXT]')
  const cores = []
  for (const directory of directories(path.join(options.storage, 'cores'))) {
    const core = new Hypercore(directory, { createIfMissing: false })
    await core.ready()
    if (options.append) await core.append(Buffer.from(options.append))
    cores.push({ discoveryKey: hex(core.discoveryKey), ...(await inspect(core)) })
    await core.close()
  }
  say({ cores })
  await leave()
}, { storage: { type: 'string' }, append: { type: 'string' } })

function directories (root) {
  const below = at => fs.readdirSync(at).sort().map(name => path.join(at, name))
  return below(root).flatMap(below).flatMap(below)
}

async function inspect (core) {
  const hash = crypto.createHash('sha256')
  let held = 0
  for (let index = 0; index < core.length; index++) {
    if (!(await core.has(index))) continue
    const block = await core.get(index, { wait: false })
    hash.update(`${index} ${block.length}\n`).update(block)
    held++
  }
  const { blocks, tree } = await core.core.audit()
  return { key: hex(core.key), length: core.length, fork: core.fork, byteLength: core.byteLength, held, sha256: hash.digest('hex'), damaged: blocks + tree }
}

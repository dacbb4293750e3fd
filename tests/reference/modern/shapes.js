'use strict'
// The drives that the tests read, one function per shape. The same shape and seed give the same keys, blocks and
// signatures on every run, so that several programs can serve (or lie about) the same drive from stores of their own.

const crypto = require('crypto')
const fs = require('fs')
const path = require('path')

const HypercoreCrypto = require('hypercore-crypto')
const Hypercore = require('hypercore')
const Hyperdrive = require('hyperdrive')
const SubEncoder = require('sub-encoder')
const caps = require('hypercore/lib/caps')
const multisig = require('hypercore/lib/multisig')

const { RAW_NAMES, openDrive, openStore, seeded } = require('./peer')

const MIB = 1024 * 1024
const CHUNK = 64 * 1024
const NAMES = new SubEncoder('files', 'utf-8')

/** Bytes that depend on `name` only; `at` is a multiple of 16. */
function noise (name, size, at = 0) {
  const counter = Buffer.alloc(16)
  counter.writeBigUInt64BE(BigInt(at / 16), 8)
  return crypto.createCipheriv('aes-256-ctr', seeded('noise', name), counter).update(Buffer.alloc(size))
}

/** Writes a file by a stream, one block of the blobs core per chunk. */
async function stream (drive, name, chunks, options) {
  const out = drive.createWriteStream(name, options)
  const done = new Promise((resolve, reject) => out.on('error', reject).on('close', resolve))
  for (const chunk of chunks) {
    if (!out.write(chunk)) await new Promise(resolve => out.once('drain', resolve))
  }
  out.end()
  await done
}

const shapes = {
  // Some of everything that programs write.
  async small (drive) {
    const mtime = Date.UTC(2026, 0, 2, 3, 4, 5)
    await drive.put('/hello.txt', Buffer.from('hello world\n'))
    await drive.put('/empty', Buffer.alloc(0))
    await drive.put('/bin/run.sh', Buffer.from('#!/bin/sh\necho ran\n'), { executable: true, metadata: { mtime } })
    await drive.put('/nested/a/b/c/deep.txt', Buffer.from('deep\n'))
    await drive.put('/unicode/žluťoučký kůň.txt', Buffer.from('kůň\n'))
    await drive.put('/unicode/日本語', Buffer.from('nihongo\n'))
    await drive.put('/unicode/cafe\u0301', Buffer.from('NFD\n'))
    await drive.put('/unicode/caf\u00e9', Buffer.from('NFC\n'))
    for (const size of [1, 4096, 65535, 65536, 65537, 200000]) await drive.put(`/sizes/${size}`, noise(`sizes/${size}`, size))
    await drive.put('/metadata', Buffer.from('m'), { metadata: { mtime, ctime: mtime, mode: 0o640, nested: { a: [1, 'é', null] } } })
    await drive.symlink('/links/relative', '../hello.txt')
    await drive.symlink('/links/absolute', '/nested/a/b/c/deep.txt')
    await drive.symlink('/links/dangling', 'nowhere')
    await drive.symlink('/links/directory', '../nested', { metadata: { mtime } })
    await drive.put('/overwritten.txt', noise('before', 70000))
    await drive.put('/overwritten.txt', Buffer.from('after\n'))
    await drive.put('/was-file', Buffer.from('file\n'))
    await drive.symlink('/was-file', 'hello.txt')
    await drive.put('/deleted.txt', Buffer.from('deleted\n'))
    await drive.del('/deleted.txt')
    await drive.put('/gone/one.txt', Buffer.from('one\n'))
    await drive.del('/gone/one.txt')
  },

  // 2,000 files written in batches, so that most blocks of the index have no level of their own.
  async many (drive) {
    for (let from = 0; from < 2000; from += 250) {
      const batch = drive.batch()
      for (let n = from; n < from + 250; n++) {
        await batch.put(`/many/${String(n % 40).padStart(2, '0')}/file-${n}.txt`, Buffer.from(`file number ${n}\n`))
      }
      await batch.flush()
    }
  },

  // Two files of 64 MiB, by a stream and at once.
  async large (drive) {
    const chunks = function * () {
      for (let at = 0; at < 64 * MIB; at += CHUNK) yield noise('streamed', CHUNK, at)
    }
    await stream(drive, '/streamed.bin', chunks())
    await drive.put('/put.bin', noise('put', 64 * MIB))
  },

  // Blocks of any size: an offset in a file does not tell its block.
  async uneven (drive) {
    const cut = (name, sizes) => sizes.map((size, n) => noise(`${name}/${n}`, size))
    await stream(drive, '/few.bin', cut('few', [10, 1000, 1, 70000]))
    await stream(drive, '/many.bin', cut('many', Array.from({ length: 500 }, (_, n) => 1 + (n * 7919) % 9000)))
    await stream(drive, '/bytes.bin', cut('bytes', Array.from({ length: 300 }, () => 1)))
    // As many blocks as a file that was cut at 65,536 bytes would have, at other offsets.
    await stream(drive, '/misleading.bin', cut('misleading', [100, 65536, 65536, 65436]))
    await stream(drive, '/one-block.bin', cut('one-block', [4 * MIB]))
    await stream(drive, '/none.bin', [])
  },

  // Files that share blocks, and whose entries name a map of blocks.
  async dedup (drive) {
    const chunk = name => noise(name, 30000)
    await stream(drive, '/first.bin', ['A', 'B', 'A', 'C'].map(chunk), { dedup: true })
    await stream(drive, '/first.bin', ['A', 'D', 'B', 'A'].map(chunk), { dedup: true })
    await stream(drive, '/long.bin', Array.from({ length: 3000 }, (_, n) => noise(`long/${n % 50}`, 500)), { dedup: true })
    await drive.put('/plain.bin', chunk('A'))
  },

  // A name that is a file and a folder.
  async twice (drive) {
    await drive.put('/a', Buffer.from('file a\n'))
    await drive.put('/a/b', Buffer.from('file b in a\n'))
    await drive.put('/a.txt', Buffer.from('sorts between the two\n'))
    await drive.symlink('/link', 'a')
    await drive.put('/link/below', Buffer.from('below a link\n'))
  },

  // Names that the API refuses to write, put into the index directly.
  async 'odd-names' (drive) {
    const raw = async (name, text = 'odd\n') => {
      const blob = await (await drive.getBlobs()).put(Buffer.from(text))
      await drive.db.put(name, { executable: false, linkname: null, blob, metadata: null },
        { keyEncoding: typeof name === 'string' ? NAMES : RAW_NAMES })
    }
    await drive.put('/plain.txt', Buffer.from('plain\n'))
    for (const name of ['/back\\slash', '/new\nline', '/nul\0byte', '/tab\tand bell\x07', '/ leading and trailing ', '/c:drive',
      '/..', '/../escape', '/dir/../../escape', '/.', '/dir/./dot', '//', '/empty//segment', '/trailing/', '', 'relative', '/',
      '/' + 'x'.repeat(255), '/' + 'y'.repeat(256), '/' + 'long/'.repeat(900) + 'end', '/' + 'ž'.repeat(128),
      '/zero\u200bwidth', '/right\u202eto left', '/.hypermount', '/dir/.hypermount']) {
      await raw(name, `name ${JSON.stringify(name.slice(0, 20))}\n`)
    }
    await raw(Buffer.from('2f6e6f742d757466382dfffe', 'hex'))
    await raw(Buffer.from('2f6c6f6e652d737572726f676174652deda080', 'hex'))
    await drive.symlink('/links/odd', '/back\\slash')
  },

  // A drive to which nothing was ever written: both cores have length 0.
  async empty () {},

  // Every file was deleted again.
  async emptied (drive) {
    await drive.put('/one.txt', Buffer.from('one\n'))
    await drive.del('/one.txt')
  },

  // 2 of 3 signers have to sign each version; see Signed below.
  multisig: drive => shapes.small(drive),
  // Key is the public key of the writer, as in the first cores of Hypercore 10.
  compat: drive => shapes.small(drive),
  // What the drives CLI writes: Hyperdrive 11 on Hypercore 10, manifest of version 0.
  drives10: drive => shapes.small(drive)
}

/**
 * Opens the drive below `directory`, and makes it if it is not there. Resolves with {store, drive, change}: `change(write)` runs
 * `write(drive)` and resolves when its version is complete and signed.
 */
async function open (directory, { shape, seed, encryptionKey = null, legacy10 = false }) {
  if (!shapes[shape]) throw new Error(`no shape ${shape}; there are ${Object.keys(shapes).join(', ')}`)
  if (shape === 'multisig' && (encryptionKey || legacy10)) throw new Error('multisig is neither encrypted nor legacy10')
  const marker = path.join(directory, 'made.json')
  const stored = path.join(directory, 'store')
  const wanted = JSON.stringify({ shape, seed, encrypted: !!encryptionKey, legacy10 })
  const made = fs.existsSync(marker)
  if (made && fs.readFileSync(marker, 'utf8') !== wanted) throw new Error(`${directory} contains another drive`)
  if (!made) fs.rmSync(stored, { recursive: true, force: true }) // left by a process that did not finish
  fs.mkdirSync(stored, { recursive: true })

  const old = legacy10 || shape === 'drives10'
  // Another drive has another key: two histories of one key would be a fork.
  const store = openStore(stored, wanted, { legacy10: old, compat: shape === 'compat' })
  await store.ready()
  const key = shape === 'compat' && !old ? await compatCore(store, seed) : null
  const drive = await openDrive(shape === 'multisig' ? store.namespace('source') : store, key, { legacy10: old, encryptionKey })
  if (!made) await shapes[shape](drive)
  let opened = { store, drive, change: write => write(drive) }
  if (shape === 'multisig') opened = await signed(store, drive, seed)
  await opened.drive.getBlobs()
  fs.writeFileSync(marker, wanted)
  return opened
}

/** A core whose key is its public key. Corestore 7 makes none by itself, but opens one. */
async function compatCore (store, seed) {
  const keyPair = HypercoreCrypto.keyPair(seeded('compat', seed))
  const core = store.get({ key: keyPair.publicKey, keyPair })
  await core.ready()
  await core.close()
  return keyPair.publicKey
}

/**
 * A drive whose versions are signed by two of three keys. Its blocks are those of `source`, an ordinary drive:
 * they are copied to cores with the other manifest, with a signature that two of the keys have made.
 */
async function signed (store, source, seed) {
  const keyPairs = [0, 1, 2].map(n => HypercoreCrypto.keyPair(seeded('signer', seed, n)))
  const manifest = Hypercore.parseManifest({ version: 1, quorum: 2, signers: keyPairs.map(({ publicKey }) => ({ publicKey })) })
  const key = Hypercore.key(manifest)
  const targets = [
    [await source.getBlobs().then(blobs => blobs.core), store.get({ manifest: Hyperdrive.getContentManifest(manifest, key) })],
    [source.core, store.get({ manifest })]
  ]
  for (const [, target] of targets) await target.ready()

  const sign = async (from, target, length, fork) => {
    const signable = caps.treeSignable(target.key, await from.treeHash(length), length, fork)
    return multisig.assemble([0, 2].map(signer => {
      return { signer, signature: HypercoreCrypto.sign(signable, keyPairs[signer].secretKey), patch: 0, nodes: null }
    }))
  }
  const copy = async () => {
    for (const [from, target] of targets) {
      if (from.fork > target.fork) {
        // What remains was not changed by the truncation of the source, so its tree is the same.
        const length = Math.min(target.length, from.length)
        await target.truncate(length, { fork: from.fork, signature: await sign(from, target, length, from.fork) })
      }
      if (from.length === target.length) continue
      const blocks = []
      for (let n = target.length; n < from.length; n++) blocks.push(await from.get(n, { valueEncoding: 'binary' }))
      await target.append(blocks, { signature: await sign(from, target, from.length, target.fork) })
    }
  }
  await copy()
  const drive = await openDrive(store, key)
  return {
    store,
    drive,
    async change (write) {
      await write(source)
      await copy()
    }
  }
}

module.exports = { noise, open, shapes }

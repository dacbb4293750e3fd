'use strict'
// Writes more to a drive of a store directory, its default one unless --key names another: the same edits for
// the same seed, of every kind the reference knows. Prints {key, version, before, after}, the latter two
// listings with hashes.

const { openDrive, openStore, promised, run, said, say, usage, walk } = require('./peer')

run(async ([directory], options) => {
  if (!directory) usage('edit-drive.js DIR [--key HEX] [--seed N] [--edits N]')
  const drive = await openDrive(await openStore(directory), options.key)
  const before = await walk(drive, true)
  const dice = new Dice(Number(options.seed))
  for (let n = 0; n < Number(options.edits); n++) await edit(drive, dice, n)
  const answer = { key: drive.key.toString('hex'), version: drive.version, before, after: await walk(drive, true) }
  await drive.promises.close()
  say(answer)
  await said()
  process.exit(0)
}, {
  key: { type: 'string' },
  seed: { type: 'string', default: '1' },
  edits: { type: 'string', default: '0' }
})

async function edit (drive, dice, n) {
  const now = await walk(drive, false)
  const files = Object.keys(now).filter(name => now[name].type !== 'directory')
  const folders = ['', ...Object.keys(now).filter(name => now[name].type === 'directory')]
  const inside = name => '/' + dice.one(folders) + '/' + name
  switch (dice.below(5)) {
    case 0:
      if (files.length > 0) await drive.promises.unlink('/' + dice.one(files))
      break
    case 1:
      await drive.promises.mkdir(inside(`r-folder-${n}-${dice.below(1000)}`))
      break
    case 2:
      await promised(done => drive.symlink('nowhere/' + n, inside(`r-link-${n}-${dice.below(1000)}`), done))
      break
    default:
      await drive.promises.writeFile(inside(`r-file-${n}-${dice.below(1000)}`), Buffer.alloc(dice.below(200000), n + 1))
  }
}

/** A linear congruential generator: enough to vary, and the same everywhere. */
class Dice {
  constructor (seed) { this.state = (seed * 7919 + 12345) % 2147483648 }
  below (bound) {
    this.state = (this.state * 1103515245 % 2147483648 + 12345) % 2147483648
    return Math.floor(this.state / 65536) % bound
  }

  one (list) { return list[this.below(list.length)] }
}

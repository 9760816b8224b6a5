/** The file in which all servers of a user on this machine write down what memory they promised; see `MemoryLedger`. */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  type Stats,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { attempt } from "../cache/files.ts"

/** Another one for another layout of the entries. */
const LAYOUT = 1

/**
 * The same for all servers of a user, however they were started: not in `XDG_RUNTIME_DIR`, which a service has not. In memory
 * where there is a place for that.
 */
export const standardLedgerFolder = (): string => {
  const place = existsSync("/dev/shm") ? "/dev/shm" : tmpdir()
  return join(place, `ggml-rpc-${process.getuid?.() ?? 0}`)
}

/** The ids of processes mean something within one container alone. */
const fileName = (): string => {
  const [, namespace] =
    /\[(\d+)\]/.exec(attempt(() => readlinkSync("/proc/self/ns/pid")) ?? "") ?? []
  return `memory-${LAYOUT}${namespace === undefined ? "" : `-${namespace}`}`
}

/** Whoever else can write there could have servers believe that no memory is left. */
const checkOwn = ({ uid, mode }: Stats, what: string): void => {
  const own = process.getuid?.() ?? uid
  if (uid !== own) throw new Error(`${what} is another user's`)
  if ((mode & 0o077) !== 0) throw new Error(`others may use ${what}`)
}

/** Its descriptor. @throws {Error} when it is not this user's alone, or cannot be made */
export const openSharedLedger = (folder: string): number => {
  attempt(() => mkdirSync(folder, { mode: 0o700 }))
  const found = lstatSync(folder)
  if (!found.isDirectory()) throw new Error(`${folder} is no folder`)
  checkOwn(found, folder)
  const path = join(folder, fileName())
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants
  const descriptor = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600)
  try {
    const file = fstatSync(descriptor)
    if (!file.isFile()) throw new Error(`${path} is no file`)
    checkOwn(file, path)
    return descriptor
  } catch (error) {
    closeSync(descriptor)
    throw error
  }
}

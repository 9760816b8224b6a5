import { readSync, writeSync } from "node:fs"

/** Appends all of `bytes`. */
export const writeAll = (descriptor: number, bytes: Uint8Array): true => {
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done)
  return true
}

/** Fills `bytes` from a position of the file; false when it ends before. */
export const readAll = (descriptor: number, bytes: Uint8Array, position: number): boolean => {
  for (let done = 0; done < bytes.length; ) {
    const count = attempt(() =>
      readSync(descriptor, bytes, done, bytes.length - done, position + done),
    )
    if (count === undefined || count === 0) return false
    done += count
  }
  return true
}

/** The cache is an optimisation: a full disk or a forbidden folder must not end a session. */
export const attempt = <A>(action: () => A): A | undefined => {
  try {
    return action()
  } catch {
    return undefined
  }
}

/** A cache seen from outside, while servers may use it. */
import { closeSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import { CacheFolderError } from "../front/errors.ts"
import {
  type CacheEntry,
  isRemoved,
  listEntries,
  openEntry,
  removeStaleParts,
  shrinkTo,
  sizeOf,
} from "./CacheFolder.ts"
import { readAll } from "./files.ts"

const PIECE_BYTES = 4 * 1024 * 1024

/** What was removed. */
export interface PrunedCache {
  readonly removedCount: number
  readonly removedBytes: number
  /** Leftovers of writers that were ended. */
  readonly partCount: number
}

/** The files of a cache, least recently used first; none where the folder does not exist. */
export const listCache = (folder: string): Effect.Effect<readonly CacheEntry[], CacheFolderError> =>
  Effect.try({
    try: () => {
      checkFolder(folder)
      return listEntries(folder)
    },
    catch: (cause) => new CacheFolderError({ folder, cause }),
  })

const checkFolder = (folder: string): void => {
  try {
    readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error
  }
}

/** Whether a file's bytes hash to its name. Reads all of it. */
export const isGood = (folder: string, { name, sizeBytes }: CacheEntry): boolean => {
  const entry = openEntry(folder, name)
  if (entry === undefined) return false
  const { descriptor } = entry
  try {
    const hash = new Fnv1a64()
    const block = new Uint8Array(PIECE_BYTES)
    for (let offset = 0; offset < sizeBytes; offset += PIECE_BYTES) {
      const piece = block.subarray(0, Math.min(PIECE_BYTES, sizeBytes - offset))
      if (!readAll(descriptor, piece, offset)) return false
      hash.update(piece)
    }
    return hash.digestHex() === name
  } finally {
    closeSync(descriptor)
  }
}

/**
 * Removes leftovers of writers that were ended, and the least recently used files until the rest is at most `limitBytes`. A
 * server that reads one of them has it open, and goes on.
 */
export const pruneCache = (
  folder: string,
  limitBytes: number,
): Effect.Effect<PrunedCache, CacheFolderError> =>
  Effect.flatMap(listCache(folder), (before) =>
    Effect.sync(() => {
      const partCount = removeStaleParts(folder)
      shrinkTo(folder, limitBytes)
      const after = listEntries(folder)
      return {
        removedCount: before.length - after.length,
        removedBytes: sizeOf(before) - sizeOf(after),
        partCount,
      }
    }),
  )

/** Removes one file; false when it could not be. */
export const removeFromCache = (folder: string, { name }: CacheEntry): boolean =>
  isRemoved(join(folder, name))

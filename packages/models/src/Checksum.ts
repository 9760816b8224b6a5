/** What a file's bytes must come to, as hubs publish it. */
export type Digest =
  | { readonly algorithm: "sha256"; readonly hex: string }
  /** Of a file that a Git repository holds itself: SHA-1 over a header with the size, and the bytes. */
  | { readonly algorithm: "git-sha1"; readonly hex: string }

/** The digest that an object id of a hub is; undefined for what is none. */
export const digestOf = (oid: string): Digest | undefined => {
  const hex = oid.toLowerCase()
  if (/^[0-9a-f]{64}$/.test(hex)) return { algorithm: "sha256", hex }
  return /^[0-9a-f]{40}$/.test(hex) ? { algorithm: "git-sha1", hex } : undefined
}

export interface Hasher {
  readonly update: (bytes: Uint8Array) => unknown
  readonly digest: (encoding: "hex") => string
}

/** Takes a file's bytes in order. */
export const newHasher = (algorithm: Digest["algorithm"], sizeBytes: number): Hasher => {
  if (algorithm === "sha256") return new Bun.CryptoHasher("sha256")
  return new Bun.CryptoHasher("sha1").update(`blob ${sizeBytes}\0`)
}

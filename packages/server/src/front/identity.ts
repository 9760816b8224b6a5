/** What a server shows its clients by TLS: a certificate, its own or one that was made for it. */
import { X509Certificate } from "node:crypto"
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { TlsIdentityError } from "./errors.ts"

/** PEM texts. */
export interface TlsIdentity {
  readonly cert: string
  readonly key: string
}

const YEARS = 10
const YEAR_MS = 365 * 24 * 3600 * 1000

/** SHA-256 of a certificate, as clients take it: `01:23:…`. @throws {Error} when it is none */
export const fingerprintOf = ({ cert }: TlsIdentity): string =>
  new X509Certificate(cert).fingerprint256

/** The certificate and key of two PEM files. */
export const readIdentity = (
  certFile: string,
  keyFile: string,
): Effect.Effect<TlsIdentity, TlsIdentityError> =>
  Effect.try({
    try: () => {
      const identity = { cert: readFileSync(certFile, "utf8"), key: readFileSync(keyFile, "utf8") }
      fingerprintOf(identity)
      return identity
    },
    catch: (cause) => new TlsIdentityError({ place: `${certFile} and ${keyFile}`, cause }),
  })

/** The certificate that signs itself in a folder, made at the first call. */
export const ownIdentity = (folder: string): Effect.Effect<TlsIdentity, TlsIdentityError> => {
  const path = join(folder, "tls.pem")
  return Effect.tryPromise({
    try: async () => {
      const kept = split(readIfThere(path))
      if (kept !== undefined) return kept
      const made = await make()
      mkdirSync(folder, { recursive: true, mode: 0o700 })
      // Whole or not at all, and for nobody else to read: the key is in it.
      writeFileSync(`${path}.${process.pid}`, `${made.cert}\n${made.key}\n`, { mode: 0o600 })
      renameSync(`${path}.${process.pid}`, path)
      return made
    },
    catch: (cause) => new TlsIdentityError({ place: path, cause }),
  })
}

const readIfThere = (path: string): string => {
  try {
    return readFileSync(path, "utf8")
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return ""
    throw error
  }
}

const split = (text: string): TlsIdentity | undefined => {
  const part = (kind: string): string | undefined =>
    new RegExp(`-----BEGIN ${kind}-----[^-]+-----END ${kind}-----`).exec(text)?.[0]
  const [cert, key] = [part("CERTIFICATE"), part("PRIVATE KEY")]
  if (cert !== undefined && key !== undefined) return { cert, key }
  if (text === "") return undefined
  throw new Error("it holds no certificate and key; remove it, and another is made")
}

const make = async (): Promise<TlsIdentity> => {
  // Only a server's first start needs it.
  const { generate } = await import("selfsigned")
  const made = await generate([{ name: "commonName", value: "ggml-rpc" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notAfterDate: new Date(Date.now() + YEARS * YEAR_MS),
  })
  return { cert: made.cert, key: made.private }
}

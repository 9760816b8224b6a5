/** What shows a client to servers, and servers to it, out of files. */
import { readFileSync, statSync } from "node:fs"
import * as Effect from "effect/Effect"
import { CertificateFileError, TokenFileError } from "../errors.ts"
import { noteLine } from "../terminal.ts"

/** Shorter ones can be tried out by who has seen one proof. */
const MIN_LENGTH = 16

/** The text of the file without white space around it. */
export const readToken = (path: string): Effect.Effect<string, TokenFileError> =>
  Effect.gen(function* () {
    const text = yield* Effect.try({
      try: () => readFileSync(path, "utf8").trim(),
      catch: (cause) =>
        new TokenFileError({
          path,
          reason: cause instanceof Error ? cause.message : String(cause),
        }),
    })
    if (text.length < MIN_LENGTH) {
      return yield* new TokenFileError({
        path,
        reason: `it has ${text.length} characters, and a token has at least ${MIN_LENGTH}`,
      })
    }
    if ((statSync(path).mode & 0o077) !== 0) {
      noteLine(`warning: others of this machine can read the token in ${path}; chmod 600 it`)
    }
    return text
  })

/** Certificates, PEM. */
export const readCertificates = (path: string): Effect.Effect<string, CertificateFileError> =>
  Effect.try({
    try: () => {
      const text = readFileSync(path, "utf8")
      if (!text.includes("-----BEGIN CERTIFICATE-----")) throw new Error("it holds no certificate")
      return text
    },
    catch: (cause) =>
      new CertificateFileError({
        path,
        reason: cause instanceof Error ? cause.message : String(cause),
      }),
  })

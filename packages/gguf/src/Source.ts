/** Where the bytes of one GGUF file come from. The parser reads it synchronously, in order, with jumps forward. */
export interface Source {
  /** Path or URL, as it was given. */
  readonly location: string
  /** `location` as messages show it: a URL without user name, password and query. */
  readonly name: string
  readonly sizeBytes: number
  /**
   * Copies bytes of the file, from `offsetBytes` on, into `target`. Returns how many: at least one, 0 at
   * the end of the file. Throws `GgufError`, or `MissingBytes` where they have to be fetched first.
   */
  read(target: Uint8Array, offsetBytes: number): number
}

/**
 * Thrown by a source that has to wait for bytes: it wants them fetched, and the parser run again. So one
 * parser serves files and networks, and waits nowhere by itself.
 */
export class MissingBytes extends Error {
  readonly offsetBytes: number
  readonly sizeBytes: number

  constructor(offsetBytes: number, sizeBytes: number) {
    super(`bytes from ${offsetBytes} on are not here yet`)
    this.offsetBytes = offsetBytes
    this.sizeBytes = sizeBytes
  }
}

/** Whether a location is a URL to fetch, not a path. */
export const isHttpLocation = (location: string): boolean => /^https?:\/\//i.test(location)

/** A location without what may be a secret. */
export const displayName = (location: string): string => {
  if (!isHttpLocation(location) || !URL.canParse(location)) return location
  const { origin, pathname } = new URL(location)
  return origin + pathname
}

/** The last name in a URL's path. */
export const fileNameOf = (url: string): string => {
  const name = new URL(url).pathname.split("/").at(-1) ?? ""
  try {
    // A name with a slash in it is no name of a file.
    return decodeURIComponent(name).replaceAll("/", "_") || "model.gguf"
  } catch {
    return name
  }
}

/** The system's word for a failed operation: its code, else its message. */
export const causeText = (cause: unknown): string => {
  if (cause instanceof Error) return "code" in cause ? String(cause.code) : cause.message
  return String(cause)
}

/** What tells servers apart: another name each time that one starts. */
const NAME_BYTES = 16

/** In hex. */
export const newServerName = (): string =>
  crypto.getRandomValues(new Uint8Array(NAME_BYTES)).toHex()

export const serverNameBytes = (name: string): Uint8Array =>
  name === "" ? new Uint8Array(NAME_BYTES) : Uint8Array.fromHex(name)

/** A part of it that is a plain number. */
export const serverNumber = (name: string): number => Number.parseInt(name.slice(0, 12), 16)

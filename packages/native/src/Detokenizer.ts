/**
 * Turns tokens into text as they come. A token can hold part of a UTF-8 character, so text is given
 * out only up to the last complete one.
 */
export class Detokenizer {
  readonly #piece: (token: number) => Uint8Array
  /** Bytes of an unfinished character: at most 3. */
  readonly #held = new Uint8Array(3)
  #heldCount = 0
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true })

  /** @param piece the bytes of a token, such as `model.piece` */
  constructor(piece: (token: number) => Uint8Array) {
    this.#piece = piece
  }

  /**
   * The text that is complete with this token; often empty. Bytes that are no UTF-8 become U+FFFD.
   */
  push(token: number): string {
    const piece = this.#piece(token)
    if (piece.length === 0) return ""
    const bytes = new Uint8Array(this.#heldCount + piece.length)
    bytes.set(this.#held.subarray(0, this.#heldCount))
    bytes.set(piece, this.#heldCount)
    const complete = completeLength(bytes)
    this.#held.set(bytes.subarray(complete))
    this.#heldCount = bytes.length - complete
    return this.#decoder.decode(bytes.subarray(0, complete))
  }

  /** What is left of an unfinished character, as U+FFFD; empty when there is nothing. */
  finish(): string {
    const rest = this.#held.subarray(0, this.#heldCount)
    this.#heldCount = 0
    return rest.length === 0 ? "" : this.#decoder.decode(rest)
  }
}

/** Bytes a character takes, by its first byte; 0 for a byte that starts none. */
const characterLength = (first: number): number =>
  first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0

/** Length of the part of `bytes` that does not end inside a character. */
const completeLength = (bytes: Uint8Array): number => {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back]!
    if ((byte & 0xc0) === 0x80) continue
    return characterLength(byte) > back ? bytes.length - back : bytes.length
  }
  return bytes.length
}

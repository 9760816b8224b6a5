import { join } from "node:path"
import { withFile, writeWithHole } from "./FileSource.ts"
import { GgufError } from "./GgufError.ts"
import { type HttpOptions, HttpSource } from "./HttpSource.ts"
import { readElements } from "./metadata.ts"
import { readPart } from "./part.ts"
import { fileNameOf, isHttpLocation, type Source } from "./Source.ts"
import { checkLaterPart, joinParts, laterPartError, laterParts } from "./split.ts"
import type { GgufArray, GgufArrayElement, GgufFile, PartContent } from "./types.ts"

export interface ReadGgufOptions {
  /**
   * Arrays of more elements than this are skipped: only their type, length and place are kept.
   * Default 1024, which leaves out vocabularies and keeps per-layer values.
   */
  readonly arrayLimit?: number
}

/** For URLs; a local file has no use for them. */
export interface OpenGgufOptions extends ReadGgufOptions, HttpOptions {}

const DEFAULT_ARRAY_LIMIT = 1024

/**
 * Reads a GGUF v2 or v3 model's metadata and tensor list, never its weights. For a split model, name
 * the first part (`…-00001-of-0000N.gguf`): the others are found beside it.
 * Throws `GgufError`.
 */
export const readGguf = (path: string, options: ReadGgufOptions = {}): GgufFile => {
  const read = (location: string, index: number) =>
    withFile(location, (source) => readPart(source, index, arrayLimitOf(options)))
  const first = read(path, 0)
  const later = laterParts(first).map((request) => {
    try {
      return checkLaterPart(request, read(request.location, request.index))
    } catch (error) {
      throw laterPartError(request, error)
    }
  })
  return joinParts([first, ...later])
}

/**
 * The same for a path or an HTTP(S) URL, of which it fetches byte ranges: a few requests and megabytes,
 * whatever the model's size. Rejects with `GgufError`, or with the signal's reason once that is aborted.
 */
export const openGguf = async (
  location: string | URL,
  options: OpenGgufOptions = {},
): Promise<GgufFile> => {
  const text = String(location)
  if (isHttpLocation(text)) return joinParts(await readHttpParts(text, options, () => {}))
  if (location instanceof URL) throw unknownScheme(location)
  return readGguf(text, options)
}

/**
 * Fetches a model's header from an HTTP(S) URL into files of the same names and sizes in `folder`, whose weights are
 * holes: what reads no weights, such as libllama's memory measurement, takes them for the model. Existing files are
 * overwritten.
 *
 * @returns the path of the first part; rejects as `openGguf` does
 */
export const saveGgufHeader = async (
  url: string,
  folder: string,
  options: OpenGgufOptions = {},
): Promise<string> => {
  const paths: string[] = []
  const parts = await readHttpParts(url, options, async (source, content) => {
    const { dataOffsetBytes, fileBytes } = content.part
    const headerBytes = Math.min(dataOffsetBytes, fileBytes)
    const header = await source.parse((bytes) => readBytes(bytes, headerBytes))
    const path = join(folder, fileNameOf(source.location))
    writeWithHole(path, header, fileBytes)
    paths.push(path)
  })
  joinParts(parts)
  return paths[0]!
}

/** Parts of a split model one after the other: what the first one says is needed to find the others. */
const readHttpParts = async (
  url: string,
  options: OpenGgufOptions,
  onPart: (source: HttpSource, content: PartContent) => void | Promise<void>,
): Promise<[PartContent, ...PartContent[]]> => {
  const read = async (location: string, index: number, check: (content: PartContent) => void) => {
    const source = await HttpSource.open(location, options)
    const content = await source.parse((bytes) => readPart(bytes, index, arrayLimitOf(options)))
    check(content)
    await onPart(source, content)
    return content
  }
  const parts: [PartContent, ...PartContent[]] = [await read(url, 0, () => {})]
  for (const request of laterParts(parts[0])) {
    try {
      const check = (content: PartContent) => checkLaterPart(request, content)
      parts.push(await read(request.location, request.index, check))
    } catch (error) {
      throw laterPartError(request, error)
    }
  }
  return parts
}

const readBytes = (source: Source, sizeBytes: number): Uint8Array => {
  const bytes = new Uint8Array(sizeBytes)
  for (let done = 0; done < sizeBytes; ) done += source.read(bytes.subarray(done), done)
  return bytes
}

/**
 * The elements of a metadata array of the first part, read from the file if `readGguf` skipped it.
 * Undefined when the key is absent or no array. Throws `GgufError`.
 */
export const readGgufArray = (
  gguf: GgufFile,
  key: string,
): readonly GgufArrayElement[] | undefined => {
  const array = arrayOf(gguf, key)
  return array === undefined || array.values !== undefined
    ? array?.values
    : withFile(gguf.path, (source) => readElements(source, array, key))
}

/** The same for a model that `openGguf` read, from its path or URL. */
export const openGgufArray = async (
  gguf: GgufFile,
  key: string,
  options: HttpOptions = {},
): Promise<readonly GgufArrayElement[] | undefined> => {
  const array = arrayOf(gguf, key)
  if (array === undefined || array.values !== undefined) return array?.values
  if (!isHttpLocation(gguf.path)) return readGgufArray(gguf, key)
  const source = await HttpSource.open(gguf.path, options, array.offsetBytes)
  return source.parse((bytes: Source) => readElements(bytes, array, key))
}

const arrayOf = (gguf: GgufFile, key: string): GgufArray | undefined => {
  const value = gguf.metadata.get(key)
  return value?.type === "array" ? value : undefined
}

const arrayLimitOf = (options: ReadGgufOptions): number => options.arrayLimit ?? DEFAULT_ARRAY_LIMIT

const unknownScheme = (url: URL): GgufError =>
  new GgufError({
    path: url.href,
    reason: "unreadable",
    message: `${url.href} is no HTTP address; give a path, or a URL that starts with http:// or https://`,
  })

/** Split models: `…-00001-of-0000N.gguf`, and the other parts beside it. */
import { GgufError } from "./GgufError.ts"
import { integerOf, quote } from "./metadata.ts"
import { partSuffix, readPartName, writePartName } from "./partNames.ts"
import { displayName, isHttpLocation, type Source } from "./Source.ts"
import type { GgufFile, GgufValue, PartContent } from "./types.ts"

/** A later part of a model, to be read. */
export interface PartRequest {
  readonly location: string
  /** Place in the model; the first part is 0. */
  readonly index: number
  readonly partCount: number
  /** Of the first part, for messages. */
  readonly firstName: string
}

/** libllama wants the first part of a split model, so we name it. */
export const checkFirstPart = (
  { location, name }: Source,
  metadata: ReadonlyMap<string, GgufValue>,
): void => {
  const partCount = integerOf(metadata.get("split.count")) ?? 1
  const index = integerOf(metadata.get("split.no")) ?? 0
  if (partCount <= 1 || index === 0) return
  const first = partLocation(location, index, partCount, 0)
  const advice = first === undefined ? "give the first part" : `give ${displayName(first)}`
  throw new GgufError({
    path: name,
    reason: "not-first-part",
    message: `${name} is part ${index + 1} of ${partCount} of a split model; ${advice}`,
  })
}

/** The parts that a first part announces besides itself; empty for a model that is not split. */
export const laterParts = (first: PartContent): readonly PartRequest[] => {
  const partCount = partCountOf(first)
  const location = first.part.path
  const firstName = displayName(location)
  const requests: PartRequest[] = []
  for (let index = 1; index < partCount; index++) {
    const later = partCount <= 0xffff ? partLocation(location, 0, partCount, index) : undefined
    if (later === undefined) {
      throw new GgufError({
        path: firstName,
        reason: "malformed",
        message:
          `${firstName} is the first of ${partCount} parts, but its name does not say so; ` +
          `rename it to …${partSuffix(0, partCount)} beside the other parts`,
      })
    }
    requests.push({ location: later, index, partCount, firstName })
  }
  return requests
}

/** What reading a later part threw, which says for which model it was needed when it is not there. */
export const laterPartError = (request: PartRequest, error: unknown): unknown => {
  if (!(error instanceof GgufError) || error.reason !== "missing") return error
  const { firstName, index, partCount } = request
  const path = displayName(request.location)
  return new GgufError({
    path,
    reason: "missing",
    message: `${firstName} needs part ${index + 1} of ${partCount}, but there is no file ${path}; download that part`,
  })
}

/** Fails when a file is not the part that was asked for. */
export const checkLaterPart = (request: PartRequest, content: PartContent): PartContent => {
  if (integerOf(content.metadata.get("split.no")) === request.index) return content
  const path = displayName(request.location)
  throw new GgufError({
    path,
    reason: "malformed",
    message: `${path} is not part ${request.index + 1} of the model of ${request.firstName}; download that part again`,
  })
}

/** A model of its parts, in order. */
export const joinParts = (parts: readonly [PartContent, ...PartContent[]]): GgufFile => {
  const [first] = parts
  const tensors = parts.flatMap((part) => part.tensors)
  if (partCountOf(first) > 1) checkWholeSplit(first, tensors)
  return {
    path: first.part.path,
    version: first.version,
    alignmentBytes: first.alignmentBytes,
    metadata: first.metadata,
    tensors,
    parts: parts.map((part) => part.part),
    tensorBytes: tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
  }
}

const partCountOf = (first: PartContent): number =>
  integerOf(first.metadata.get("split.count")) ?? 1

const checkWholeSplit = (first: PartContent, tensors: PartContent["tensors"]): void => {
  const path = displayName(first.part.path)
  const malformed = (detail: string) =>
    new GgufError({
      path,
      reason: "malformed",
      message: `The parts of ${path} do not belong together: ${detail}; download them again`,
    })
  const announced = integerOf(first.metadata.get("split.tensors.count"))
  if (announced !== undefined && announced !== tensors.length) {
    throw malformed(`${announced} tensors are announced and ${tensors.length} are there`)
  }
  const names = new Set<string>()
  for (const { name } of tensors) {
    if (names.has(name)) throw malformed(`tensor ${quote(name)} appears twice`)
    names.add(name)
  }
}

/**
 * Where part `wanted` lies, by the location of part `index`; undefined when its name does not say which
 * part it is. A URL's query stays: that of a host's download link fits all parts.
 */
const partLocation = (
  location: string,
  index: number,
  partCount: number,
  wanted: number,
): string | undefined => {
  const query = isHttpLocation(location) ? (/[?#].*$/s.exec(location)?.[0] ?? "") : ""
  const path = location.slice(0, location.length - query.length)
  const found = readPartName(path)
  if (found?.index !== index || found.count !== partCount || found.prefix.endsWith("/")) {
    return undefined
  }
  return writePartName({ ...found, index: wanted }) + query
}

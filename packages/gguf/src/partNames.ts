/** Names of a split model's files, as llama.cpp writes them (`llama_split_path` of src/llama.cpp): `…-00001-of-0000N.gguf`. */

/** What such a name says. */
export interface PartName {
  /** Before the numbers, without the hyphen; folders are part of it. */
  readonly prefix: string
  /** Place in the model; the first part is 0. */
  readonly index: number
  readonly count: number
}

const PART = /^(.+)-(\d{5})-of-(\d{5})\.gguf$/is

/** Undefined for a path whose name says nothing of parts. */
export const readPartName = (path: string): PartName | undefined => {
  const [, prefix, number, count] = PART.exec(path) ?? []
  return prefix === undefined
    ? undefined
    : { prefix, index: Number(number) - 1, count: Number(count) }
}

/** The path of a part. */
export const writePartName = ({ prefix, index, count }: PartName): string =>
  `${prefix}${partSuffix(index, count)}`

/** What a part's path ends in. */
export const partSuffix = (index: number, count: number): string =>
  `-${fiveDigits(index + 1)}-of-${fiveDigits(count)}.gguf`

const fiveDigits = (value: number): string => String(value).padStart(5, "0")

/** The files of the model at `path`, by its name: of a split one, whose first file it is, all parts. None is looked for. */
export const modelFiles = (path: string): readonly string[] => {
  const found = readPartName(path)
  if (found === undefined || writePartName({ ...found, index: 0 }) !== path) return [path]
  return Array.from({ length: Math.max(1, found.count) }, (_, index) =>
    writePartName({ ...found, index }),
  )
}

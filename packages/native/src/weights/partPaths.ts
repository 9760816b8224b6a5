/** `…-00001-of-00003.gguf`: the first file of a split model. */
const FIRST_PART = /^(.*-)00001(-of-(\d{5})\.gguf)$/

/** The files of the model at `path`, which of a split one is the first. */
export const partPaths = (path: string): readonly string[] => {
  const found = FIRST_PART.exec(path)
  if (found === null) return [path]
  const [, head, tail, count] = found as unknown as [string, string, string, string]
  return Array.from(
    { length: Math.max(1, Number(count)) },
    (_, index) => head + String(index + 1).padStart(5, "0") + tail,
  )
}

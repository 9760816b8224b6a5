/** Server-sent events, of which only the data count. */

/** Calls `onData` with the data of each event as it comes. */
export const readEvents = async (
  body: ReadableStream<Uint8Array>,
  onData: (data: string) => void,
): Promise<void> => {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ""
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/)
    rest = lines.pop() ?? ""
    for (const line of lines) {
      if (line.startsWith("data:")) onData(line.slice(5).trimStart())
    }
  }
}

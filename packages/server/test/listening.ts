import { createServer, type Server, type Socket } from "node:net"

/** Takes connections on a free port. */
export const listening = async (onPeer: (peer: Socket) => void) => {
  const listener: Server = createServer((socket) => {
    socket.on("error", () => {})
    onPeer(socket)
  })
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve))
  const { port } = listener.address() as { port: number }
  return { port, stop: () => void listener.close() }
}

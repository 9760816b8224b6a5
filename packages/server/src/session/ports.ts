/** Ports below belong to the system's services. */
export const FIRST_PORT = 1024

/** Whether a client may have this port connected to. */
export const isDialable = (port: number): boolean => port >= FIRST_PORT && port <= 65535

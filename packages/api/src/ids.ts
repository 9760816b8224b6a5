/** Names of answers, as each dialect begins them. */
export const newId = (prefix: string): string =>
  `${prefix}${crypto.randomUUID().replaceAll("-", "")}`

/** Unix time in seconds. */
export const nowSeconds = (): number => Math.floor(Date.now() / 1000)

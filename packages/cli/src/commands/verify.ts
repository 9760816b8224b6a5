export const verify = () => {
  throw new Error()
}

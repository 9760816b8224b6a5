/** What is not given stays the model's or the library's choice. */
export const withoutAbsent = <A extends object>(
  values: A,
): { [K in keyof A]?: Exclude<A[K], undefined> } =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never

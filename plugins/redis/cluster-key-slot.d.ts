declare module 'cluster-key-slot' {
  /** Returns the slot of a key, by its hash tag if it has one. */
  export default function slotOf(key: string): number;
}

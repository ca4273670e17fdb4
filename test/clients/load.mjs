/** Imports a package of this folder. A module outside of it resolves the packages of the project. */
export const load = (specifier) => import(specifier);

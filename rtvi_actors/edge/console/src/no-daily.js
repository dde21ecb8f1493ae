// In place of @daily-co/daily-js: the transport imports it, and uses it only in its default media manager, which we replace.
export default {};

// syntax=example/other
let x = 1

touch "f[1].txt"

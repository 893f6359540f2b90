mkdir a b; echo a>a/f; echo b>b/f

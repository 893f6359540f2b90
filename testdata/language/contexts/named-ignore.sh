mkdir o; echo a>a; echo b>b; echo a>o/a; echo b>o/b; echo b>o/.dockerignore

echo a>a; echo b>b; echo a>.dockerignore; echo b>my.df.dockerignore

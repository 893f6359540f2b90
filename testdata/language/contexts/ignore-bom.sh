printf "\357\273\277a\n" >.dockerignore; echo a>a; echo b>b

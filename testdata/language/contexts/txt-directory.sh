mkdir -p a/b
echo>a/b.txt
echo >a/c

echo f>f
mkdir d
echo>d/x

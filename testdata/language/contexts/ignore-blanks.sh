printf "  a  \n#b\n #c\n\n\t\nd \n" >.dockerignore; touch a b c d "#c" "#b" "d "

mkdir src; cd src; touch -- "sp ace" "q'uote" 'd"q' "new
line" "tab	" "back\\slash" "*" "?" "[" "é" $(printf "\377\376") "-dash" "#hash" "..." ".. " "~" "\$HOME" ".wh" ".whx"; touch $(printf "%0255d" 1)

"""Makes the embedded models anew: tokenizer, VAE, small CLIP, UNet, from four icon packages.

::

    for name in noto noto-v1 fluent-emoji-flat fxemoji; do
        npm pack @iconify-json/$name; mkdir -p icons/$name
        tar xzf iconify-json-$name-*.tgz -C icons/$name --strip-components=1
    done
    pip install resvg-py            # in a throwaway environment: the factory needs none of it
    python -m lora_factory.demo.pretrain icons made --minutes 8

Each call works for so many minutes and leaves a checkpoint; call it until it says that it is done.
``made/emoji-base`` and ``made/emoji-clip`` are then what ``assets/`` holds, and
``made/measures.json`` what was measured on icons held out. No other icon set may enter: those are
what the factory is tested with.
"""

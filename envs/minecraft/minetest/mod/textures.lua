-- The client makes a texture when it needs it first, and then draws what has it a step late. So that no episode depends
-- on those before it, the cracks of all that can be dug in the land are made beforehand.

local textures = {}

local NATURAL = { default = true, flowers = true }

local function cracked()
	local names = {}
	for _, node in pairs(minetest.registered_nodes) do
		for _, tile in ipairs(NATURAL[node.mod_origin] and node.tiles or {}) do
			local name = type(tile) == "table" and tile.name or tile
			if type(name) == "string" then
				-- The client's own names for them. Opaque leaves are without alpha; what is no cube has an overlay.
				local opaque = node.drawtype == "allfaces_optional" and "^[noalpha" or ""
				names[name .. opaque .. "^[crack:1:0"] = true
				names[name .. opaque .. "^[cracko:1:0"] = true
			end
		end
	end
	return names
end

-- Has `player` make them, by showing them outside the picture; returns a function that puts them away.
function textures.show(player)
	local shown = {}
	for name in pairs(cracked()) do
		local place = { x = -2, y = -2 }
		table.insert(shown, player:hud_add({ hud_elem_type = "image", text = name, position = place, scale = { x = 1, y = 1 } }))
	end
	return function()
		for _, id in ipairs(shown) do
			player:hud_remove(id)
		end
	end
end

return textures
